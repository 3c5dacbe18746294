"""Training of AR-GAN and AR-GAN-DR with torch."""

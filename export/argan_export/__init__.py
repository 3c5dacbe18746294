"""Export of trained networks to the formats that phones and small computers run."""

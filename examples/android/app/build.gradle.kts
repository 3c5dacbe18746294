plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
    id("org.jetbrains.kotlin.plugin.compose")
}

android {
    namespace = "org.example.argan"
    compileSdk = 36
    defaultConfig {
        applicationId = "org.example.argan"
        minSdk = 29 // ImageDecoder, and saving without a permission
        targetSdk = 36
        versionCode = 1
        versionName = "0.1"
    }
    buildFeatures { compose = true }
    androidResources { noCompress += "tflite" } // LiteRT maps the file into memory
}

kotlin { jvmToolchain(17) }

// All Apache-2.0.
dependencies {
    implementation("com.google.ai.edge.litert:litert:2.3.0")
    implementation(platform("androidx.compose:compose-bom:2025.09.00"))
    implementation("androidx.compose.material3:material3")
    implementation("androidx.activity:activity-compose:1.11.0")
    implementation("androidx.core:core-ktx:1.17.0")
}

plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "pocketstep.testing"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.java.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.java.get())
    }
}

kotlin {
    explicitApi()
}

dependencies {
    api(project(":learner"))
    api(libs.junit)
    api(libs.coroutines.core)
}

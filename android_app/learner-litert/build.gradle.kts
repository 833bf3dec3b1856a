plugins {
    alias(libs.plugins.android.library)
    alias(libs.plugins.dokka)
}

android {
    namespace = "pocketstep.litert"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        consumerProguardFiles("consumer-rules.pro")
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
    api(libs.tensorflow.lite)
    testImplementation(project(":learner-testing"))
    androidTestImplementation(project(":learner-testing"))
    androidTestImplementation(libs.androidx.test.runner)
}

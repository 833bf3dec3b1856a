plugins {
    alias(libs.plugins.android.application)
}

android {
    namespace = "pocketstep.validator"
    compileSdk = libs.versions.compileSdk.get().toInt()
    defaultConfig {
        minSdk = libs.versions.minSdk.get().toInt()
        targetSdk = libs.versions.targetSdk.get().toInt()
        versionCode = 1
        versionName = "0.1"
        manifestPlaceholders["litert"] = "tensorflow-lite ${libs.versions.tensorflow.lite.get()}"
        manifestPlaceholders["executorch"] = "executorch-android ${libs.versions.executorch.get()}"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.toVersion(libs.versions.java.get())
        targetCompatibility = JavaVersion.toVersion(libs.versions.java.get())
    }
}

dependencies {
    implementation(project(":learner-litert"))
    implementation(project(":learner-executorch"))
    testImplementation(project(":learner-testing"))
    testImplementation(libs.robolectric)
    testImplementation(libs.androidx.test.core)
}

plugins {
    alias(libs.plugins.android.application) apply false
    alias(libs.plugins.android.library) apply false
    alias(libs.plugins.dokka)
}

allprojects {
    group = "pocketstep"
}

dependencies {
    for (library in listOf(":learner", ":learner-litert", ":learner-executorch")) dokka(project(library))
}

"""What ``scripts/android`` is made of: Gradle's work, as far as it goes without Gradle, an SDK or an emulator."""

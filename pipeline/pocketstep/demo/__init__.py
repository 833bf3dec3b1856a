"""The whole story on an embedded dataset: the cloud makes a bundle, separate device processes learn with it."""

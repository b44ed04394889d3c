"""The networks: diffusion, U-Net, features, classifiers, presets."""

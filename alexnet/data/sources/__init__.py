"""Pictures as people have them: folders, archives, CIFAR-10."""

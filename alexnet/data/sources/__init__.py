"""Sources of pictures: folders, archives, CIFAR-10. One module for each kind; kinds.py lists them."""

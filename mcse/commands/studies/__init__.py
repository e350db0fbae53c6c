"""What ``mcse study`` is made of: the declaration, its cells and commands, what was declared before, the results."""

"""What can be wrong with a detector's numbers: shortcuts, degradations, attacks, what it has never met."""

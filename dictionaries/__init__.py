"""What a feature is: SAE dictionaries on disk, their feature cards, and the maths of an edit."""

"""VSE: captions and images in one space."""

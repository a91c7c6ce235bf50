"""Still pictures: files, colour, metadata, and cleaning many of them."""

"""For the eye: the HTML page, the terminal, plain text, pictures, colours."""

"""Who may come in, and what they get back: everything between the network and Gradio's app."""

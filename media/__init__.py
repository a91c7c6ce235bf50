"""What surrounds the engine on disk: pictures in and out, and which input becomes which output."""

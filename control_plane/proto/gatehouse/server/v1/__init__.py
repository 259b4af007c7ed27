"""Generated messages; see control_plane/proto/generate.py."""

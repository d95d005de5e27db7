"""What the containers of audio hold, as opposed to what their headers state.

Files are untrusted: every walk over one is bounded in time and memory, and reads no more than it needs.
"""

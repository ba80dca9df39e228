"""What needs real processes and real sockets."""

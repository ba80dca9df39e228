"""What is measured on purpose, and proves the README's figures."""

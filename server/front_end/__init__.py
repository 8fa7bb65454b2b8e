"""The front-end process: requests in, answers out."""

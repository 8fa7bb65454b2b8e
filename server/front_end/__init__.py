"""The front-end process: `process` is its composition root, `commands` are the supervisor's."""

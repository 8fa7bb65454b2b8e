"""The combiner process, which turns predictions into answers."""

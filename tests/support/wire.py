"""What is under a connection, for tests that look at the bytes."""


class Wire:
    """A transport that keeps what is written."""

    def __init__(self):
        self.sent = b""
        self.unsent_bytes = 0
        self.state = "open"
        self.is_read = True
        self.on_write = lambda: None

    def write(self, data):
        self.sent += data
        self.on_write()

    def writelines(self, chunks):
        self.write(b"".join(chunks))

    def get_write_buffer_size(self):
        return self.unsent_bytes

    def is_closing(self):
        return self.state != "open"

    def close(self):
        self.state = "closed"

    def abort(self):
        self.state = "aborted"

    def get_extra_info(self, _name, default=None):
        return default

    def pause_reading(self):
        self.is_read = False

    def resume_reading(self):
        self.is_read = True

"""What holds for every test; the fixtures that several folders share lie in the modules named here."""

import signal

pytest_plugins = ("tests.tiny_model", "tests.tiny_run")

# A suite that a shell started in the background ignores Ctrl-C, and the programs that it tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

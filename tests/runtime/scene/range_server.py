"""Serves a folder over HTTP with byte ranges, as GDAL wants them; prints its port. Run as a script.

GDAL holds Python's lock while it opens a file, so that a server in the same process would never answer.
"""

import functools
import http.server
import sys
from pathlib import Path


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Answers requests for a part of a file."""

    def do_GET(self) -> None:
        """Send the bytes asked for."""
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range", "")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        first, last = (int(value or len(data) - 1) for value in (asked.removeprefix("bytes=") or "0-").split("-"))
        part = data[first : last + 1]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)


if __name__ == "__main__":
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=sys.argv[1])) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()

"""Write a page on which anyone can draw a digit and see what dropout does to a saved network."""

import argparse
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from minidl import datasets, models
from minidl.commands import cli
from minidl.commands.playground.page import page_of
from minidl.storage.atomic import check_writable, write_atomically

HOST = "127.0.0.1"  # other machines cannot reach it
EPILOG = """\
The network is a Sequential of Dense layers with relu and Dropout, as minidl.train makes it, for
images of 28 x 28 pixels. The page needs neither a network connection nor minidl.

"""


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command's arguments; exit with one line if they are invalid."""
    parser = cli.Parser("minidl.playground", __doc__, EPILOG + cli.exit_statuses())
    add = parser.add_argument
    add("model", metavar="MODEL", help="a file that minidl.train or model.save wrote")
    add("--out", metavar="FILE", help="write the page to this file")
    add("--serve", action="store_true", help=f"serve the page on {HOST} until Ctrl-C")
    port = cli.number(int, 0, 65535)
    add("--port", type=port, default=8000, help="with --serve; 0 is any free port (default: 8000)")
    add(
        "--white",
        type=cli.number(float, 0, above=True),
        metavar="VALUE",
        help="the network's input for a white pixel (default: 255 if the network has a Rescaling "
        "layer, otherwise 1)",
    )
    arguments = parser.parse_args(argv)
    if arguments.out is None and not arguments.serve:
        parser.error("expected --out FILE or --serve, got neither.")
    return arguments


@cli.command("minidl.playground")
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and return its exit status; ``--help`` lists them."""
    arguments = parse_arguments(argv)
    content = content_of(arguments)
    if arguments.out is not None:
        write_atomically(arguments.out, content)
        cli.print_line(f"{arguments.out}: {len(content):,} bytes; open it in a browser")
    if arguments.serve:
        serve(content, arguments.port)


def content_of(arguments: argparse.Namespace) -> bytes:
    """Return the page, with examples of the 1,000 test digits that come with minidl."""
    _, (x, y) = datasets.mnist_5k.load_data()
    with cli.input_checks():
        if arguments.out is not None:
            check_writable(arguments.out)
            cli.check_distinct(arguments.out, [arguments.model])
        model = models.load(arguments.model)
    try:
        return page_of(model, x, y, white=arguments.white).encode()
    except ValueError as error:
        reason = str(error).removeprefix("playground: ")
        raise cli.InputError(f"{arguments.model}: {reason}") from error


def serve(content: bytes, port: int) -> None:
    """Serve the page to this machine until an interruption."""
    try:
        opened = PageServer((HOST, port), handler_of(content))
    except OSError as error:
        raise cli.InputError(
            f"--port: expected a free port, got {port}: {error.strerror}. Pass --port 0."
        ) from error
    with opened as server:
        cli.print_line(f"http://{HOST}:{server.server_port}/ shows the page; Ctrl-C ends it")
        server.serve_forever()


class PageServer(ThreadingHTTPServer):
    """Server that prints nothing if a browser closes a connection early."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def handler_of(content: bytes) -> type[BaseHTTPRequestHandler]:
    """Return a handler of requests that knows the page only."""

    class PageHandler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            is_page = self.path == "/"
            self.send_response(200 if is_page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content) if is_page else 0))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if self.path == "/":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return PageHandler

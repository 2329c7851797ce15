"""The original's conversion to ONNX, under its file name: ``export`` with the original's flags."""

from expansionnet.cli import parse_convert2onnx
from expansionnet.export import export
from prunelab.errors import entry

if __name__ == "__main__":
    entry(lambda argv: export(parse_convert2onnx(argv)) and None)()

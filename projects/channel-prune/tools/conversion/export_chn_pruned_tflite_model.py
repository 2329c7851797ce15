"""The original's export tool, under its file name: ``export``, which writes ONNX, not GraphDef or TFLite."""

from channel_prune.export import main

if __name__ == "__main__":
    main()

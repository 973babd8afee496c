"""One target under libFuzzer: python -m tests.fuzz.run TARGET FOLDER_OF_NATIVE [libFuzzer's own options].

FOLDER_OF_NATIVE has the modules of native/ compiled with sanitizers (tests/fuzz/__main__.py makes them).
"""

import sys

import atheris

import parkfleet.native


def main() -> None:
    name, native = sys.argv[1:3]
    parkfleet.native.__path__.insert(0, native)
    with atheris.instrument_imports(include=["parkfleet.protocols"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *sys.argv[3:]], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()

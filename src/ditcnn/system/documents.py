"""Small files of settings and records, read within limits: JSON and YAML."""

import json
from pathlib import Path
from typing import Any

import yaml

from ditcnn.system.errors import InputError, reason
from ditcnn.system.files import read_file
from ditcnn.system.text import one_line

__all__ = ["read_json", "read_small", "read_yaml"]

MOST_BYTES = 2**26
MOST_NESTING = 50


def read_small(path: Path, limit: int = MOST_BYTES) -> bytes:
    """Return the content of a file of at most ``limit`` bytes.

    Raises:
        FileNotFoundError: There is none.
        InputError: It cannot be read, see `read_file`.
    """
    try:
        return read_file(path, limit)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{reason(error)}.") from None


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; errors as `read_small`, and InputError for what is no JSON."""
    try:
        return json.loads(read_small(path))
    except ValueError as error:  # text that is not UTF-8 too
        raise InputError(f"{path} is damaged: {one_line(error)}.") from None
    except RecursionError:
        raise InputError(f"{path} is damaged: it is nested too deeply.") from None


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds; errors as `read_small`, and InputError for no YAML, deep nesting and aliases."""
    try:
        text = read_small(path, limit=2**20).decode()
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):  # before it is built, which takes memory and the stack
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_NESTING or isinstance(event, yaml.AliasEvent):
                raise InputError(
                    f"{path} must be plain settings; it is nested more than {MOST_NESTING} deep, or has aliases."
                )
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not YAML: {one_line(error)}.") from None

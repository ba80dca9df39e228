"""The tools that come without a schema, because real Claude models know them (PROTOCOL 1.5, appendix A)."""

from typing import Any

from claudeproxy.model.anthropic import Tool

_STRING = {"type": "string"}
_POINT = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_LINES = {"type": "array", "items": {"type": "integer"}, "description": "First and last line; -1 is the end."}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _enum(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


_BASH = _object(
    [],
    command={"type": "string", "description": "The command to run. Required unless the shell is restarted."},
    restart={"type": "boolean", "description": "Restarts the shell."},
)
_EDITS = ("view", "create", "str_replace", "insert")
_MOUSE_AND_KEYS = (
    *("key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click", "double_click"),
    *("screenshot", "cursor_position"),
)
_MORE_ACTIONS = (*("hold_key", "left_mouse_down", "left_mouse_up", "triple_click", "scroll", "wait"),)


def _editor(version: str) -> dict[str, Any]:
    commands = (*_EDITS, "undo_edit") if version in ("20241022", "20250124") else _EDITS
    inserted = "insert_text" if version == "20250728" else "new_str"
    properties: dict[str, Any] = {
        "command": _enum(*commands),
        "path": {"type": "string", "description": "Absolute path of a file or folder."},
        "view_range": _LINES,
        "file_text": {"type": "string", "description": "The file's content, for create."},
        "old_str": {"type": "string", "description": "The text to replace; it must occur exactly once."},
        "new_str": {"type": "string", "description": "The text to put in its place."},
        "insert_line": {"type": "integer", "description": "The line after which to insert; 0 is the start."},
    }
    properties.setdefault(inserted, {"type": "string", "description": "The text to insert."})
    return _object(["command", "path"], **properties)


def _memory(version: str) -> dict[str, Any]:
    return _object(
        ["command"],
        command=_enum("view", "create", "str_replace", "insert", "delete", "rename"),
        path=_STRING,
        view_range=_LINES,
        file_text=_STRING,
        old_str=_STRING,
        new_str=_STRING,
        insert_line={"type": "integer"},
        insert_text=_STRING,
        old_path=_STRING,
        new_path=_STRING,
    )


def _computer(version: str) -> dict[str, Any]:
    actions = _MOUSE_AND_KEYS if version == "20241022" else _MOUSE_AND_KEYS + _MORE_ACTIONS
    properties: dict[str, Any] = {"action": _enum(*actions), "coordinate": _POINT, "text": _STRING}
    if version != "20241022":
        properties |= {
            "start_coordinate": _POINT,
            "duration": {"type": "number", "description": "In seconds."},
            "scroll_direction": _enum("up", "down", "left", "right"),
            "scroll_amount": {"type": "integer"},
        }
    return _object(["action"], **properties)


def _zooming(schema: dict[str, Any]) -> dict[str, Any]:
    properties = dict(schema["properties"])
    properties["action"] = _enum(*properties["action"]["enum"], "zoom")
    properties["region"] = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
    return schema | {"properties": properties}


_SHELL = "Runs a command in a shell that stays open between calls, and gives what it wrote."
_EDITOR = "Views, creates and edits text files."
_MEMORY = "Keeps notes in files under /memories that last from one conversation to the next."
_SCREEN = "Uses the mouse and the keyboard of a computer and takes screenshots of it."


def client_tool(tool: Tool) -> tuple[str, dict[str, Any]] | None:
    """Description and schema of a typed tool that the client runs; None for another tool, a server's above all."""
    family, _, version = (tool.type or "").rpartition("_")
    match family:
        case "bash":
            return _SHELL, _BASH
        case "text_editor":
            return _EDITOR, _editor(version)
        case "memory":
            return _MEMORY, _memory(version)
        case "computer":
            width, height = (tool.settings.get(f"display_{side}_px") for side in ("width", "height"))
            size = f" The screen has {width} x {height} pixels." if width and height else ""
            schema = _computer(version)
            return _SCREEN + size, _zooming(schema) if tool.settings.get("enable_zoom") else schema
    return None

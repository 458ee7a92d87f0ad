"""Where the placeholders of a shell's text stand: a quoted value is one word only where the shell reads words."""

from __future__ import annotations

import re

PLACE = "\0"  # a placeholder, in the text that is looked at
_DELIMITER = re.compile(r"<<(-?)[ \t]*([^\s;&|<>()]+)")


def places(text: str) -> list[str]:
    """Of each PLACE in the text, in their order: "" where a value can be quoted for the shell, else where it is."""
    return _Scan(text).found


class _Scan:
    def __init__(self, text: str) -> None:
        self.found: list[str] = []
        self._text = text
        self._within = [""]  # what is open, inmost last: "" is the text itself, else what it began with
        self._documents: list[tuple[bool, str]] = []  # here-documents that begin with the next line
        at = 0
        while at < len(text):
            at = self._step(at)

    def _step(self, at: int) -> int:
        """Read what is at that place; where the next is."""
        text, within = self._text, self._within
        one, inmost = text[at], within[-1]
        if one == PLACE:
            self.found.append(self._where())
        elif inmost == "'":
            if one == "'":
                within.pop()
        elif one == "\\":
            return self._all(at, at + 2, "behind a backslash")
        elif text.startswith("$((", at):
            within.append("$((")
            return at + 3
        elif text.startswith("$(", at):
            within.append("$(")
            return at + 2
        elif one == "$":
            return self._all(at, at + 2, "behind a $") if text[at + 1 : at + 2] == PLACE else at + 1
        elif one in '"`' and one == inmost:
            within.pop()
        elif one in '"`' or (one == "'" and inmost != '"' and "$((" not in within):
            within.append(one)
        elif inmost == "$((" and text.startswith("))", at):
            within.pop()
            return at + 2
        elif one == "(" and inmost != '"':
            within.append("(")
        elif one == ")" and inmost in ("(", "$("):
            within.pop()
        elif inmost in ("", "(", "$(") and "$((" not in within:
            return self._plain(at)
        return at + 1

    def _plain(self, at: int) -> int:
        """Of what only has a meaning between words: comments, and here-documents."""
        text = self._text
        if text[at] == "#" and (at == 0 or text[at - 1] in " \t\n;&|()"):
            return self._all(at, _end_of_line(text, at), "in a comment")
        if text.startswith("<<<", at):
            return at + 3
        document = _DELIMITER.match(text, at)
        if document:
            self._documents.append((bool(document[1]), re.sub(r"['\"\\]", "", document[2])))
            return self._all(at, document.end(), "at the end of a here-document")
        if text[at] == "\n" and self._documents:
            return self._bodies(at + 1)
        return at + 1

    def _bodies(self, at: int) -> int:
        for tabs, delimiter in self._documents:
            while at < len(self._text):
                end = _end_of_line(self._text, at)
                line = self._text[at:end]
                self._all(at, end, "in a here-document")
                at = end + 1
                if (line.lstrip("\t") if tabs else line) == delimiter:
                    break
        self._documents = []
        return at

    def _where(self) -> str:
        if "$((" in self._within:
            return "in an arithmetic expression"
        if self._within[-1] in ("'", '"'):
            return "within quotes"
        return "between backticks" if "`" in self._within else ""

    def _all(self, start: int, stop: int, where: str) -> int:
        self.found += [where] * self._text.count(PLACE, start, stop)
        return stop


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return end if end >= 0 else len(text)

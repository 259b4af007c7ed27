"""Lines with indentation, and the comments that must find their place between them.

A comment that stood alone on its line is written before the next thing that stood below it; one behind
something is written at the end of the line on which that thing ends up. No comment is ever lost: what is
left when a statement is done is written before the next.
"""

from collections.abc import Iterator

from policies.language.source import Span
from policies.language.syntax.ast import Comment


class LineWriter:
    """Collects formatted text. Comments must be given in the order of their rows."""

    def __init__(self, comments: tuple[Comment, ...]) -> None:
        self.lines: list[str] = []
        self.line: list[str] = []
        self.level = 0
        self.trailing: list[str] = []
        self.comments = list(_texts(comments))
        self.next_comment = 0

    def write(self, text: str) -> None:
        """Adds to the line at hand."""
        if not self.line:
            self.line.append("\t" * self.level)
        self.line.append(text)

    def end_line(self, *, with_comments: bool = True) -> None:
        """Ends the line, with the comments that belong to it; an empty line at hand is no line.

        Without them, the comments wait for the end of the next line.
        """
        if self.trailing and with_comments:
            if self.line:
                self.line.append(" ")
            self.write(" ".join(self.trailing))
            self.trailing = []
        if self.line:
            self.lines.append("".join(self.line))
            self.line = []

    def blank(self) -> None:
        """One empty line, never two, and none at the beginning of a text."""
        self.end_line()
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def comments_before(self, row: int) -> bool:
        """Writes the comments above a row on lines of their own; whether there were any.

        The line at hand must be empty. Empty lines between comments and below them are kept, and one
        divides a METADATA block from another right below it.
        """
        last = 0
        in_block = False
        while self.next_comment < len(self.comments) and self.comments[self.next_comment][0] < row:
            comment_row, text = self.comments[self.next_comment]
            self.next_comment += 1
            begins_block = _begins_annotations(text)
            if last and (comment_row - last > 1 or (in_block and begins_block)):
                self.blank()
                in_block = False
            in_block = in_block or begins_block
            self.write(text.lstrip() if self.level else text)
            self.end_line()
            last = comment_row
        if last and row - last > 1:
            self.blank()
        return last > 0

    def comments_left(self) -> None:
        """Writes the comments that wait at the end of a text; only below METADATA an empty line is kept."""
        last, in_block = 0, False
        for row, text in self.comments[self.next_comment :]:
            if in_block and row - last > 1:
                self.blank()
                in_block = False
            in_block = in_block or _begins_annotations(text)
            self.write(text)
            self.end_line()
            last = row

    def comments_on(self, row: int) -> None:
        """Takes the comments up to the end of a row for the end of the line at hand."""
        while self.next_comment < len(self.comments) and self.comments[self.next_comment][0] <= row:
            self.trailing.append(self.comments[self.next_comment][1].lstrip())
            self.next_comment += 1

    def has_comment_before(self, row: int) -> bool:
        """Whether a comment waits that stood above a row."""
        return self.next_comment < len(self.comments) and self.comments[self.next_comment][0] < row

    def has_comment_between(self, row: int, end_row: int) -> bool:
        """Whether a comment waits that stood on a row between two."""
        waiting = self.comments[self.next_comment :] if row + 1 < end_row else []
        return any(row < comment_row < end_row for comment_row, _ in waiting)

    def as_written(self, span: Span) -> None:
        """Writes source text as it is, with the comments in it; one before or behind it waits for the end."""
        self.write(span.text)
        self.comments_on(span.row - 1)
        while self.has_comment_before(span.end_row):
            self.next_comment += 1

    def text(self) -> str:
        """Everything, ended by one line end."""
        self.end_line()
        while self.lines and not self.lines[-1]:
            self.lines.pop()
        return "\n".join(self.lines) + "\n" if self.lines else ""


def _texts(comments: tuple[Comment, ...]) -> Iterator[tuple[int, str]]:
    """Rows and texts. One away from the margin, which there would belong to annotations, stays away."""
    block_row = -1
    for comment in comments:
        row, text = comment.span.row, "#" + comment.text.rstrip()
        if _begins_annotations(text) or row == block_row + 1:
            if comment.span.column == 1:
                block_row = row
            else:
                text = " " + text
        yield row, text


def _begins_annotations(text: str) -> bool:
    """Whether a comment, with its sign, is the first line of annotations."""
    return text[1:].strip() == "METADATA"

"""Text, Markdown and HTML files, folders, patterns, pipes and stdin."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest
from ctxembed._jobs.reading import InputDocument, ReadOptions, Rejected, open_inputs, texts

from tests.cli.process import unprivileged_only
from tests.jobs.conftest import documents, read, rejected

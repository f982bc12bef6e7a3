"""Changes to a database file or its log while a service uses it."""

import os
import shutil


def remove(path):
    path.unlink()


def remove_folder(path):
    shutil.rmtree(path.parent)


def replace_by_a_copy(path):
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def truncate(path):
    os.truncate(path, 0)


def truncate_half(path):
    os.truncate(path, path.stat().st_size // 2)

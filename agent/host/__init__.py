"""Wrappers of kernel and operating system interfaces, one a file. No decisions here."""

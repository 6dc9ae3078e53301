"""Lays the answers of several frameworks side by side and finds the differences that matter."""

"""The joint head, and the features of a frozen encoder that it learns from, computed once."""

"""The one exception that a person's bad input raises: the two scripts print its sentence and exit with code 2."""


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, the field, the value and what was expected."""

export GREETING="from .profile"

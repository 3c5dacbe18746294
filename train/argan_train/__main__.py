import sys

from argan_train.cli import main

sys.exit(main())

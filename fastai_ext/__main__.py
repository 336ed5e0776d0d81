"The command `fastai-ext`, also `python -m fastai_ext`"
from .cli import run_cli

if __name__ == '__main__': run_cli()

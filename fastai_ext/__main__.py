"The command `fastai-ext`, also `python -m fastai_ext`"
from .cli import main

if __name__ == '__main__': main()

"`python -m fastai_ext` is the command `fastai-ext`"
from .fashion import main

main()

"The command `fastai-ext`, also `python -m fastai_ext`"
import warnings

def main():
    "Run the command, without a warning that timm's and torch's import gives and that says nothing to its users"
    warnings.filterwarnings('ignore', message='`torch.jit.script` is deprecated')
    from .fashion import main
    main()

if __name__ == '__main__': main()

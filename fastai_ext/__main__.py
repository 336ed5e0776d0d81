"The command `fastai-ext`, also `python -m fastai_ext`"

def main():
    "Run the command"
    from .fashion import main
    main()

if __name__ == '__main__': main()

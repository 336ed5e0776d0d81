"""Does a training go as fast as `speed_report` says, and is the setting that it calls the fastest the fastest?

    python benchmarks/speed.py [--steps 200] [--seconds 60]

Claim: trained for 200 steps, the winner of a report is within 10% of the best setting. Every setting trains, in turns
of 20 steps, each its own learner (data in memory, AdamW), and its items/s are set beside those of the report. Where the
processor has bfloat16 the report has it too, and the last column says how much faster it is than float32 with the
channels last, at the learner's batch size.
Run on a machine that does nothing else: with two threads any other work costs more than it takes."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.all import *
from common import figure, in_turn, median, write

turn = 20 # steps
models = {o.__name__: o for o in (mini_convnet, mini_resnet_fast)}

def learner(model, bs, cbs=None):
    "For a turn of `turn` steps an epoch"
    d = fashion_mnist('embedded')
    n = bs*turn
    x,y,norm = np.resize(d.train_x, (n,28,28)),np.resize(d.train_y, n),Normalize.from_stats(*fashion_stats)
    dls = DataLoaders.from_arrays(x, y, x, y, vocab=fashion_vocab, bs=bs, batch_tfms=norm)
    return Learner(dls, models[model](), metrics=accuracy, cbs=cbs)

def train(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=SkipValid())

def callbacks(setting):
    "Those of a row of the report"
    return [*([ChannelsLast()] if 'last' in setting else []), *([AutoPrecision()] if 'float16' in setting else [])]

def measure(model, bs, steps, seconds):
    learn = learner(model, bs)
    with learn.no_bar(): report = learn.speed_report(seconds)
    t = report.to_df()
    t = t[t.bs.notna() & (t.setting != 'as it is')]
    keys = [(r.setting, int(r.bs)) for r in t.itertuples() if not r.failed]
    said = dict(zip(keys, t['items/s']))
    times = in_turn({k: partial(train, learner(model, k[1], callbacks(k[0]))) for k in keys}, max(1, steps//turn))
    rates = {k: turn*k[1]/median(v) for k,v in times.items()}
    best,winner = max(rates, key=rates.get),(report.best['setting'], report.best['bs'])
    res = [dict(model=model, setting=k[0], bs=k[1], said=said[k], trained=rates[k], seconds=figure(times[k]),
        is_best=k == best, is_winner=k == winner) for k in keys]
    print(f'\n{model}: {report.advice}\n\n| setting | bs | the report says | trained | |\n|---|--:|--:|--:|---|')
    for r in res: print(f"| {r['setting']} | {r['bs']} | {r['said']:,.0f} | {r['trained']:,.0f} | "
        f"{'winner ' if r['is_winner'] else ''}{'best' if r['is_best'] else ''} |")
    print(f'\nThe winner reaches {rates[winner]/rates[best]:.3f} of the best')
    pair = [rates.get((f'channels last, {o}', bs)) for o in ('bfloat16', 'float32')]
    return res,dict(model=model, of_best=rates[winner]/rates[best], bf16=pair[0] and pair[0]/pair[1])

@call_parse
def main(
    steps:int=200, # of each setting
    seconds:float=60 # of each report
):
    rows,summary = [],[]
    for model,bs in (('mini_convnet', 64), ('mini_resnet_fast', 32)):
        res,s = measure(model, bs, steps, seconds)
        rows += res
        summary.append(s)
    write('speed', dict(steps=steps, seconds=seconds), rows, summary)

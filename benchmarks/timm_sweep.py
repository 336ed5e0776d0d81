"""Every architecture of timm is summarised, and its MACs agree with torch's own counter

Claim: all that `timm.list_models()` names are summarised at their default input size, none by real arithmetic;
totals equal those of `torch.utils.flop_counter.FlopCounterMode`, and where that one fails the cause is known.
Run: `python benchmarks/timm_sweep.py [--seconds 450]`, again until it says "all done": it goes on where it stopped.
Models are built on the meta device, so memory stays small. Rows of the results: `way` is why it went by real
arithmetic, `torch` its MACs or its error, `unknown` are operators without formula, `summary_s` the seconds of the
summary alone, `torch_error` is torch's at its first try."""
from fastai.vision.all import *
import logging, timm, warnings
from torch.utils.flop_counter import FlopCounterMode
from fastai_ext.summary import summarize
from common import Runs

def _build(name):
    with torch.device('meta'): model = timm.create_model(name, pretrained=False).eval()
    size = getattr(model, 'pretrained_cfg', {}).get('input_size', (3,224,224))
    return model,torch.zeros(1, *size)

def _count(model, x):
    with FlopCounterMode(display=False) as c, torch.no_grad(): model(x.to('meta'))
    return c.get_total_flops()//2

def _torch(model, x):
    """MACs by torch's own counter on the meta device, and its error if it fails. The counter's module tracker asks each
    argument of a module that requires gradients for its gradient function, and views of parameters made under
    `no_grad`, such as an expanded class token, have none. With frozen parameters it has nothing to ask, and counts the
    same."""
    try: return _count(model, x),''
    except Exception as e: err = f'{type(e).__name__}: {e}'[:80]
    try: return _count(model.requires_grad_(False), x),err
    except Exception as e: return f'{type(e).__name__}: {e}'[:80],err

def measure(name):
    "Figures of one model"
    try: model,x = _build(name)
    except Exception as e:
        res = dict(way='build', params=0, macs=0, torch='', unknown={}, error=f'{type(e).__name__}: {e}'[:150])
        return dict(res, summary_s=0, torch_error='')
    start = time.perf_counter()
    s = summarize(model, x)
    secs = round(time.perf_counter()-start, 2)
    macs,err = _torch(model, x)
    return dict(way=s.fallback[:80] or 'no data', params=s.total_params, macs=s.total_macs, torch=macs,
        unknown=s.unknown, error=s.error[:150], summary_s=secs, torch_error=err)

def report(rows):
    "Markdown tables: totals, the causes for which torch's counter failed, models that differ"
    same,diff = [[r for r in rows if (r['macs'] == r['torch']) is o] for o in (True,False)]
    def _n(rs, k): return sum(bool(r[k]) for r in rs)
    err,real = _n(rows, 'error'),sum(r['way'] not in ('no data', 'build') for r in rows)
    print('| models | summarised | by real arithmetic | errors | operators without formula | equal to torch '
        '| of them with frozen parameters | differ |\n|--:|--:|--:|--:|--:|--:|--:|--:|')
    print(f'| {len(rows)} | {len(rows)-err} | {real} | {err} | {_n(rows, "unknown")} | {len(same)} '
        f'| {_n(same, "torch_error")} | {len(diff)} |\n')
    print("| torch's error at its first try | models |\n|---|---|")
    for k,rs in groupby([r for r in rows if r['torch_error']], itemgetter('torch_error')).items():
        print(f"| {k} | {len(rs)}: {', '.join(r['model'] for r in rs)} |")
    print('\n| model | MACs here | torch | why |\n|---|--:|--:|---|')
    for r in rows:
        if r in diff or r['unknown'] or r['error']:
            print(f"| {r['model']} | {r['macs']:,} | {r['torch']} | {r['error'] or r['unknown'] or ''} |")

@call_parse
def main(
    seconds:int=450 # stop after this time
):
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    runs = Runs('timm_sweep', ['model'], {}, minutes=seconds/60)
    names = [o for o in timm.list_models() if not o.startswith('mini_')]
    for key in runs.todo((o,) for o in names): runs.make(measure, *key)
    if all((o,) in runs for o in names): print('all done\n')
    report(runs.rows)

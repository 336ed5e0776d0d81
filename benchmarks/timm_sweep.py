"""Every architecture of timm is summarised, and its MACs agree with torch's own counter

Claim: all that `timm.list_models()` names are summarised at their default input size, none by real arithmetic; totals equal those of
`torch.utils.flop_counter.FlopCounterMode`, and where that one fails the cause is known.
Run: `python benchmarks/timm_sweep.py [--seconds 450]`, again until it says "all done": it goes on where it stopped. Models are built on the meta
device, so memory stays small. Results: benchmarks/results/timm_sweep.json, a line a model:
[way, parameters, MACs, torch's MACs or its error, operators without formula, error, seconds, torch's error at its first try]."""
import argparse, json, logging, time, warnings
from pathlib import Path
import timm, torch
from torch.utils.flop_counter import FlopCounterMode
from fastai_ext import summary
from fastai_ext.core import environment

out = Path(__file__).parent/'results/timm_sweep.json'

def _build(name):
    with torch.device('meta'): model = timm.create_model(name, pretrained=False).eval()
    size = getattr(model, 'pretrained_cfg', {}).get('input_size', (3,224,224))
    return model,torch.zeros(1, *size)

def _count(model, x):
    with FlopCounterMode(display=False) as c, torch.no_grad(): model(x.to('meta'))
    return c.get_total_flops()//2

def _torch(model, x):
    """MACs by torch's own counter on the meta device, and its error if it fails. The counter's module tracker asks each argument of a module that
    requires gradients for its gradient function, and views of parameters made under `no_grad`, such as an expanded class token, have none.
    With frozen parameters it has nothing to ask, and counts the same."""
    try: return _count(model, x),''
    except Exception as e: err = f'{type(e).__name__}: {e}'[:80]
    try: return _count(model.requires_grad_(False), x),err
    except Exception as e: return f'{type(e).__name__}: {e}'[:80],err

def measure(name):
    "One line of the results"
    try: model,x = _build(name)
    except Exception as e: return ['build', 0, 0, '', {}, f'{type(e).__name__}: {e}'[:150], 0, '']
    start = time.perf_counter()
    s = summary.summarize(model, x)
    secs = round(time.perf_counter()-start, 2)
    way = s.fallback[:80] or 'no data'
    macs,err = _torch(model, x)
    return [way, s.total_params, s.total_macs, macs, s.unknown, s.error[:150], secs, err]

def report(res):
    "Markdown tables: totals, the causes for which torch's counter failed, models that differ"
    same,diff = [{k for k,r in res.items() if (r[2] == r[3]) is o} for o in (True,False)]
    err,real = sum(bool(r[5]) for r in res.values()),sum(r[0] not in ('no data', 'build') for r in res.values())
    print('| models | summarised | by real arithmetic | errors | operators without formula | equal to torch | of them with frozen parameters | differ |')
    print('|--:|--:|--:|--:|--:|--:|--:|--:|')
    print(f'| {len(res)} | {len(res)-err} | {real} | {err} | {sum(bool(r[4]) for r in res.values())} | {len(same)} | '
        f'{sum(bool(res[k][7]) for k in same)} | {len(diff)} |\n')
    causes = {}
    for k,r in res.items():
        if r[7]: causes.setdefault(r[7], []).append(k)
    print("| torch's error at its first try | models |\n|---|---|")
    for k,v in causes.items(): print(f'| {k} | {len(v)}: {", ".join(v)} |')
    print('\n| model | MACs here | torch | why |\n|---|--:|--:|---|')
    for k in sorted(diff | {k for k,r in res.items() if r[4] or r[5]}):
        r = res[k]
        print(f'| {k} | {r[2]:,} | {r[3]} | {r[5] or r[4] or ""} |')

def main(seconds):
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    data = json.loads(out.read_text()) if out.exists() else {}
    res,start = data.get('models', {}),time.time()
    todo = [o for o in timm.list_models() if o not in res and not o.startswith('mini_')]
    for name in todo:
        if time.time()-start > seconds: break
        res[name] = measure(name)
    else: print('all done\n')
    lines = ',\n'.join(f'{json.dumps(k)}:{json.dumps(v, separators=(",", ":"))}' for k,v in sorted(res.items()))
    out.parent.mkdir(exist_ok=True)
    out.write_text(f'{{"environment":{json.dumps(environment())},\n"models":{{\n{lines}\n}}}}\n')
    report(res)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--seconds', type=int, default=450, help='stop after this time')
    main(p.parse_args().seconds)

"A spread of timm's families: summarised without data, as many MACs as torch's own counter finds"
import pytest, timm, torch
from torch.utils.flop_counter import FlopCounterMode
from fastai_ext.summary import summarize

_names = '''
    resnet18 resnet26t seresnet18 resnext26ts resnest14d res2net50_14w_8s xception41 densenet121 dla34 vgg11_bn
    darknet53 cspresnet50 regnetx_002 regnety_002 regnetz_b16 mobilenetv2_050 mobilenetv3_small_050
    mobilenetv4_conv_small efficientnet_b0 tinynet_e ghostnet_050 lcnet_035 mnasnet_small hardcorenas_a
    nf_resnet26 nfnet_l0 dm_nfnet_f0 repvgg_a0 mobileone_s0 repghostnet_050 fastvit_t8 repvit_m0_9 hgnetv2_b0
    halonet26t botnet26t_256 lambda_resnet26t eca_halonext26ts bat_resnext26ts vit_tiny_patch16_224
    deit_tiny_distilled_patch16_224 cait_xxs24_224 beit_base_patch16_224 eva02_tiny_patch14_224
    xcit_nano_12_p16_224 nest_tiny swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swin_s3_tiny_224
    maxvit_rmlp_pico_rw_256 coatnet_nano_rw_224 crossvit_tiny_240 levit_128s efficientformer_l1
    efficientformerv2_s0 mobilevit_xxs mobilevitv2_050 edgenext_xx_small convit_tiny tnt_s_legacy_patch16_224
    pit_ti_224 coat_tiny twins_svt_small pvt_v2_b0 poolformer_s12 caformer_s18 convnext_atto convnextv2_atto
    mixer_s32_224 gmixer_24_224 gmlp_s16_224 resmlp_12_224 convmixer_768_32 sequencer2d_s mambaout_femto
    volo_d1_224 visformer_tiny davit_tiny focalnet_tiny_srf gcvit_xxtiny hiera_tiny_224 tiny_vit_5m_224
    inception_next_atto starnet_s1 shvit_s1 rdnet_tiny naflexvit_base_patch16_gap
    vit_base_patch16_siglip_gap_224 flexivit_small mvitv2_tiny'''.split()

def test_spread_is_broad(): assert len(set(_names) & set(timm.list_models())) >= 60

@pytest.mark.slow
@pytest.mark.parametrize('name', [o for o in _names if timm.is_model(o)])
def test_model(name):
    with torch.device('meta'): model = timm.create_model(name).eval()
    x = torch.zeros(1, *model.pretrained_cfg.get('input_size', (3,224,224)))
    s = summarize(model, x)
    assert (s.error, s.fallback, s.unknown) == ('', '', {})
    assert s.total_params == sum(p.numel() for p in model.parameters()) == sum(r.own_params for r in s.rows)
    assert abs(sum(r.own_macs for r in s.rows) - s.total_macs) < 1
    # frozen, since the counter's module tracker fails on views of parameters that require gradients, made under no_grad
    with FlopCounterMode(display=False) as c, torch.no_grad(): model.requires_grad_(False)(x.to('meta'))
    assert s.total_flops == c.get_total_flops()

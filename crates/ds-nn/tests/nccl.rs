//! Sums by NCCL on one GPU, and on two where there are two (here by threads of one process): `just gpu-test-nccl`. Without a GPU it
//! says so and tests nothing.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "nccl")]

use candle_core::{DType, Device, Tensor, Var};
use ds_core::activation::ActivationKind;
use ds_core::graph::{Gradients, Graph};
use ds_nn::Network;
use ds_nn::layers::Mode;
use ds_nn::networks;
use ds_nn::ops::conv2d::Options;
use ds_nn::ops::loss::{Kind, Loss};
use ds_nn::parallel::buckets::Buckets;
use ds_nn::parallel::nccl::{Nccl, UniqueId};
use ds_nn::parallel::{Communicator, share};
use ds_nn::rng::{Purpose, Seed};
use ds_nn::tape::Tape;
use std::panic::catch_unwind;

/// What each rank returns, for one rank and for two where there are two GPUs.
fn on_gpus<R: Send>(f: impl Fn(&Device, &dyn Communicator) -> R + Sync) -> Vec<Vec<R>> {
    let Ok(Ok(count)) = catch_unwind(ds_core::backend::gpu::cuda::count) else {
        println!("no CUDA device, nothing was tested");
        return Vec::new();
    };
    if count < 2 {
        println!("{count} CUDA devices: sums over two were not tested");
    }
    let of_size = |size| {
        let id = UniqueId::new().unwrap();
        let id: UniqueId = id.to_string().parse().unwrap();
        let f = &f;
        std::thread::scope(|scope| {
            let start = |rank| {
                scope.spawn(move || {
                    let device = ds_core::backend::gpu::cuda::open(rank).unwrap();
                    let communicator = Nccl::new(device.as_cuda_device().unwrap(), id, rank, size).unwrap();
                    assert_eq!((communicator.rank(), communicator.size()), (rank, size));
                    let result = f(&device, &communicator);
                    Box::new(communicator).finish().unwrap();
                    result
                })
            };
            let threads: Vec<_> = (0..size).map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    (1..=count.min(2)).map(of_size).collect()
}

#[test]
fn sums_come_after_what_was_done_and_before_what_follows() {
    let all = on_gpus(|device, communicator| {
        let mut results = Vec::new();
        // Large enough to be on its way while the next one is made.
        for round in 0..20 {
            let ones = Tensor::ones(1 << 20, DType::F32, device).unwrap();
            let x = (ones * f64::from(round + 1 + communicator.rank() as u32)).unwrap();
            communicator.start_sum(&x).unwrap();
            results.push(x);
        }
        communicator.join().unwrap();
        let doubled = results.iter().map(|x| (x * 2.0).unwrap().to_vec1::<f32>().unwrap()).collect::<Vec<_>>();
        let totals = Tensor::new(&[0.1f64, 2.0], device).unwrap();
        communicator.sum(&totals).unwrap();
        assert!(communicator.start_sum(&Tensor::new(&[1u8], device).unwrap()).is_err());
        (doubled, totals.to_vec1::<f64>().unwrap())
    });
    for of_ranks in &all {
        let size = of_ranks.len() as f32;
        for (doubled, totals) in of_ranks {
            for (round, values) in doubled.iter().enumerate() {
                let expected = 2.0 * (0..of_ranks.len()).map(|rank| (round + 1 + rank) as f32).sum::<f32>();
                assert!(values.iter().all(|v| *v == expected), "{size} ranks, round {round}");
            }
            assert_eq!(*totals, [0.1 * f64::from(size), 2.0 * f64::from(size)]);
        }
    }
}

/// The gradients of the mean over the samples of a part of the batch of 12, by name.
fn gradients(
    network: &Network,
    device: &Device,
    part: std::ops::Range<usize>,
    mut complete: impl FnMut(&Var, &Tensor),
) -> Vec<(Var, Tensor)> {
    let pixels: Vec<f32> = (0..12 * 28 * 28).map(|k| (k * 7919 % 1009) as f32 / 504.0 - 1.0).collect();
    let x = Tensor::from_vec(pixels, (12, 1, 28, 28), device).unwrap();
    let labels = Tensor::from_vec((0..12).map(|k| (k % 10) as u8).collect::<Vec<_>>(), 12, device).unwrap();
    let mut tape = Tape::recording();
    let x = tape.constant(&x.narrow(0, part.start, part.len()).unwrap());
    let labels = tape.constant(&labels.narrow(0, part.start, part.len()).unwrap());
    let output = network.forward_in(&mut tape, &x, Mode::training(0)).unwrap();
    let loss = tape.apply(Loss::from(Kind::CrossEntropy), [&output, &labels]).unwrap();
    let found = tape
        .backward_with(&loss, |parameter, gradient| {
            complete(parameter, gradient);
            Ok(())
        })
        .unwrap();
    let of = |p: ds_core::Parameter| (p.var.clone(), found.gradient(&p.var).unwrap().clone());
    network.parameters().into_iter().map(of).collect()
}

#[test]
fn shares_of_a_batch_have_its_gradient() {
    let all = on_gpus(|device, communicator| {
        let rng = &mut Seed(1).generator(Purpose::Weights, 0);
        let network = networks::convnet(rng, 10, ActivationKind::PRelu).unwrap();
        let mut network = network.to(DType::F32, device).unwrap();
        network.set_convolution_options(Options { tf32: false, deterministic: true });
        let parameters: Vec<Var> = network.parameters().into_iter().map(|p| p.var).collect();
        let buckets = Buckets::new(&parameters, 1 << 10).unwrap();
        assert!(buckets.len() > 1);
        let part = share(12, communicator.rank(), communicator.size());
        let mut sums = buckets.sums(part.len() as f32 / 12.0, communicator);
        let own = gradients(&network, device, part, |parameter, gradient| sums.add(parameter, gradient).unwrap());
        let sums = sums.finish().unwrap();
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let whole = gradients(&network, device, 0..12, |_, _| ());
        let compared = whole.iter().zip(own).map(|((var, whole), (_, own))| {
            let (_, sum) = sums.iter().find(|(of, _)| of.as_tensor().id() == var.as_tensor().id()).unwrap();
            (flat(sum), flat(whole), flat(&own))
        });
        compared.collect::<Vec<_>>()
    });
    for of_ranks in &all {
        for (k, (sum, whole, own)) in of_ranks[0].iter().enumerate() {
            if of_ranks.len() == 1 {
                assert_eq!(sum, own, "parameter {k}");
            }
            let scale = whole.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
            assert!(sum.iter().zip(whole).all(|(a, b)| (a - b).abs() <= 1e-4 * scale), "parameter {k}");
        }
        for other in &of_ranks[1..] {
            let same = other.iter().zip(&of_ranks[0]).all(|((ours, ..), (theirs, ..))| ours == theirs);
            assert!(same, "the ranks have other sums");
        }
    }
}
